document.body.append("openzaya");
